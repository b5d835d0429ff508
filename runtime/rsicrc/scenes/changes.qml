<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.34.0" styleCategories="Symbology|Labeling|MapTips">
  <renderer-v2 type="graduatedSymbol" attr="change_score" graduatedMethod="GraduatedColor" symbollevels="0" forceraster="0" enableorderby="0">
    <ranges>
      <range symbol="0" render="true" lower="0" upper="0.25" label="0 to 0.25"/>
      <range symbol="1" render="true" lower="0.25" upper="0.5" label="0.25 to 0.5"/>
      <range symbol="2" render="true" lower="0.5" upper="0.75" label="0.5 to 0.75"/>
      <range symbol="3" render="true" lower="0.75" upper="1" label="0.75 to 1"/>
    </ranges>
    <symbols>
      <symbol type="fill" name="0" alpha="1" clip_to_extent="1"><layer class="SimpleFill" enabled="1" locked="0" pass="0"><Option type="Map"><Option type="QString" name="color" value="254,229,217,40"/><Option type="QString" name="outline_color" value="252,187,161,255"/><Option type="QString" name="outline_width" value="0.4"/><Option type="QString" name="style" value="solid"/></Option></layer></symbol>
      <symbol type="fill" name="1" alpha="1" clip_to_extent="1"><layer class="SimpleFill" enabled="1" locked="0" pass="0"><Option type="Map"><Option type="QString" name="color" value="252,174,145,40"/><Option type="QString" name="outline_color" value="252,146,114,255"/><Option type="QString" name="outline_width" value="0.4"/><Option type="QString" name="style" value="solid"/></Option></layer></symbol>
      <symbol type="fill" name="2" alpha="1" clip_to_extent="1"><layer class="SimpleFill" enabled="1" locked="0" pass="0"><Option type="Map"><Option type="QString" name="color" value="251,106,74,50"/><Option type="QString" name="outline_color" value="239,59,44,255"/><Option type="QString" name="outline_width" value="0.6"/><Option type="QString" name="style" value="solid"/></Option></layer></symbol>
      <symbol type="fill" name="3" alpha="1" clip_to_extent="1"><layer class="SimpleFill" enabled="1" locked="0" pass="0"><Option type="Map"><Option type="QString" name="color" value="203,24,29,60"/><Option type="QString" name="outline_color" value="153,0,13,255"/><Option type="QString" name="outline_width" value="0.6"/><Option type="QString" name="style" value="solid"/></Option></layer></symbol>
    </symbols>
  </renderer-v2>
  <mapTip>&lt;b>[% "caption" %]&lt;/b>&lt;br>change score [% round("change_score", 3) %]&lt;br>[% "before_datetime" %] to [% "after_datetime" %]</mapTip>
</qgis>
